"""What attacks of several questions share: non-members, features, signals, rates, pictures, releases."""
