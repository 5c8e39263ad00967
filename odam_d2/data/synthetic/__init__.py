"""Drawn crowds, for machines on which CrowdHuman may not be downloaded."""
