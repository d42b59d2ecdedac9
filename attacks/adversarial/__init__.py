"""How small a change fools networks that were trained on a set?"""
