"""`ip2p`: each stage of the pipeline as a subcommand, a thin face of one library function."""

from ip2p_lib.cli import (
    benchmark,
    doctor,
    edit,
    evaluate,
    exchange,
    grade,
    limits,
    notebooks,
    plan,
    stages,
    train,
    triplets,
    upkeep,
)
from ip2p_lib.cli.face import app

__all__ = [
    "app",
    "benchmark",
    "doctor",
    "edit",
    "evaluate",
    "exchange",
    "grade",
    "limits",
    "main",
    "notebooks",
    "plan",
    "stages",
    "train",
    "triplets",
    "upkeep",
]


def main() -> None:
    """Console entry."""
    app()
