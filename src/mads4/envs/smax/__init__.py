"""StarCraft battles in jaxmarl's simulator SMAX; the only package that imports JAX."""
