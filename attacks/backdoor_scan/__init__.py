"""Does a distilled set, or a network trained on it, carry a backdoor that nobody told us of?"""
