"""Files as they are read and written everywhere: text of any encoding, strict JSON, and what replaces another whole."""
