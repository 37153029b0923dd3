"""`python -m ip2p_lib.cli`."""

from ip2p_lib.cli import main

main()
