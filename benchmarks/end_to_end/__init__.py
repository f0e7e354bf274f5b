"""Explaining whole answers, against what the model does anyway and against the naive method.

`cases` what is measured, `calls` the ways over one model and prompt, `floor` what explaining takes at least, `measure`
one row of figures, `memory` the peaks, `run` all of them, `tables` and `plots` what people read. `lenses` measures what
the word map beside the published one costs, and grounding.

Expected of the mid-size model on 2 CPU cores, from what is counted (P = 608 prompt tokens, L = 8, a tail of 75 % of a
layer's weights, a head of 40 % of all that a step reads) and what a call costs; first readings on a busy machine were
known for T up to 128:

- explain / plain forward: the answer pass adds the backward of each layer's tail over T rows and the product dO V^T,
  and leaves out the head. 1.1x at T = 8 and 32 (the price of a call), 1.15x at T = 128, 1.3x at T = 2048.
- after the model's own answer: one forward and 0.75 backward over T rows in large products, against T steps that read
  all weights each: 6 % of generation at T = 128, 5 % at T = 512.
- stream in blocks of 16: a block reads the layers' weights 1.75 times, generation reads them and the head's 16 times.
  By bytes that is 7 % more; the arithmetic of 16 rows, attention and hooks double it: 13 to 15 %.
- stream in blocks of 1: a forward and a backward more for each token, with hooks and a result: 150 to 200 %.
- memory: below the plain forward where T is large, because that holds T rows of logits.
- naive: T forwards, each with backward passes over everything: some 150 times as long as explain at T = 128.
"""
