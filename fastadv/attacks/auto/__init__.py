"""What AutoAttack is made of: components, the versions that choose them, and a run over what is left."""
