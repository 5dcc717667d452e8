"""Doors: ngdla as a solver of the codes that people run. Imported by nobody inside."""
