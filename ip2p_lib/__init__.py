"""InstructPix2Pix (Brooks, Holynski, Efros 2022), built stage by stage.

captions -> `triplets` -> `pairs` (candidates by prompt-to-prompt) -> `filtering` (CLIP) ->
`dataset` -> `training` (UNet with extra input channels) -> `editing` -> `evaluation`.

Nothing is imported here: `import ip2p_lib.guidance` needs torch alone.
"""

__version__ = "0.1.0"
