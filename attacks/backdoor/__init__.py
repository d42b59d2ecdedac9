"""Does a trigger planted in the real data survive distillation?"""
