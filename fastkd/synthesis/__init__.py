"""Images without data: generators, what they learn by, and whole rounds of synthesis (ZSKT, DAFL, CMI).

Nothing here draws random numbers on its own or keeps a file: latents, labels and views are given.
"""
