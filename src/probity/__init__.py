"""Probity: a self-hosted assurance control plane."""

__version__ = "0.1.0"
