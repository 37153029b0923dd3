"""`ip2p`: each stage of the pipeline as a subcommand, a thin face of one library function."""

from ip2p_lib.cli import edit, evaluate, exchange, stages, train, triplets, upkeep
from ip2p_lib.cli.face import app

__all__ = ["app", "edit", "evaluate", "exchange", "main", "stages", "train", "triplets", "upkeep"]


def main() -> None:
    """Console entry."""
    app()
