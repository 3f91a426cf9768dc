"""StarCraft battles in jaxmarl's simulator SMAX; only this package knows JAX."""
