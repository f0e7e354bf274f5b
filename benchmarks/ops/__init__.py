"""Each op on shapes of real models: every backend against plain torch, a compiler, and the limits of the device.

`cases` what is measured, `counts` what it takes at least, `contenders` who does it, `gate` whether the result is right,
`limits` what the device can do, `memory` what is allocated besides, `measure` one row of figures, `run` all of them,
`tables` and `plots` what people read.
"""
