"""What a model is: network, card, bundle, registry.

In: a trained network and the facts of its training. Out: a bundle on disk that loads without
executing anything, candidates and the one in production. Training and inference share it.
"""
