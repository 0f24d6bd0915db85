"""The studies: papers run again by the public names of fastadv. They print nothing, and return JSON."""
