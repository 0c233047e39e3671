"""Sparse encoders and products, in plain torch operations that are fast on CPUs and GPUs.

Shapes: B tokens, D width, N latents, K active latents of a token, P pairs of a token and a latent. A dense TopK step costs
12 D N multiply-adds' worth of FLOPs a token; here only the encoder is dense (2 D N) and everything else touches K rows.
"""

from tasks.sparse.encoding import Search, encode_above, encode_groupmax, encode_topk
from tasks.sparse.products import Nest, Pairs, Transposed, sampled_product, transposed, weighted_rows
from tasks.sparse.selection import above_rows, padded, topk_rows

__all__ = [
    "Nest",
    "Pairs",
    "Search",
    "Transposed",
    "above_rows",
    "encode_above",
    "encode_groupmax",
    "encode_topk",
    "padded",
    "sampled_product",
    "topk_rows",
    "transposed",
    "weighted_rows",
]
