"""Copies of training records among released images."""
