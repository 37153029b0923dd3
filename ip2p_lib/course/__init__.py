"""What only the notebooks and the main job need: figures, the whole game. No stage imports this."""
