"""What a run leaves behind: samples, the record, and everything done with them afterwards."""
