"""How a drawn slide comes to be.

In: a random generator, a diagnosis, a size. `areas` says where tissue of which class lies,
`glands` and `stroma` grow it, `anatomy` holds the result; `painting` turns any rectangle of it
into two planes of dye with `brushes`, and `stain` turns dye into colour. Out: pixels and truth.
"""
