"""What soft labels betray about records that a teacher memorised."""
