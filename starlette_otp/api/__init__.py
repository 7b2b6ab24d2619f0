"""The JSON routes: log-in, devices, recovery codes, sessions and password, for programs."""
