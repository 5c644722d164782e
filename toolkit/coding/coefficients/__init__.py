"""Integer coefficients of many channels on a grid: coded one after the other, by all that is known around each."""
