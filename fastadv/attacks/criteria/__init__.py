"""What counts as a success beyond a wrong class: of one class, of signs, positions and distances."""
