"""How the shipped small models are made, from nothing, on the picture world. No stage imports this."""
