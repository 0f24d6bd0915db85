"""The studies: three papers, and the demo on the embedded digits.

A study says what runs, what is compared and what is drawn. It uses the public names of fastadv as its users
do, prints nothing, and returns JSON-able figures; the commands print them.
"""
