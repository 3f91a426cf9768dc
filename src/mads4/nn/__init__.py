"""S4 as modules: initialisation, state-space parameters, the layer and the stack of blocks."""
