"""`ip2p`: each stage of the pipeline as a subcommand, a thin face of one library function."""

from ip2p_lib.cli import exchange, stages, triplets, upkeep
from ip2p_lib.cli.face import app

__all__ = ["app", "exchange", "main", "stages", "triplets", "upkeep"]


def main() -> None:
    """Console entry."""
    app()
