"""Figures and tables in one style: what reports, profiles and the training's dashboard draw with."""
