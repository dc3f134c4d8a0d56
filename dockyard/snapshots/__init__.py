"""Storage drivers: how stacked layers become one root file system, behind one small interface (driver.py)."""
