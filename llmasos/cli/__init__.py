"""The command line: lazy click groups over the Hub."""
