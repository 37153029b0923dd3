"""Wrong answers that people really give, one module for each notebook: id -> [(answer, part of the hint it must get)]."""
