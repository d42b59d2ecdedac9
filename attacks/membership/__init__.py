"""Can one tell which real records were used?"""
