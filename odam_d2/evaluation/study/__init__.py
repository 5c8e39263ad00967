"""How good the explanations of a detector are, over a dataset: from maps to tables, curves and a page."""
