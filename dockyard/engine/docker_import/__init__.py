"""Taking over what Docker has made: its data root is read, never changed, and made anew here."""
