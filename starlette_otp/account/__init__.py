"""The account pages: on them people manage their own devices, codes, sessions and password."""
