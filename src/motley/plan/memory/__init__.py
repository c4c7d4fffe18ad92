"""How much memory a stage needs at its peak: state, activations, workspaces, the update."""
