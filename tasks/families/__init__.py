"""Families of architectures: where the blocks, the norm and the unembedding of a model lie."""
