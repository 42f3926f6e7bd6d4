"""Network files of related programs, read and written without executing anything that a file contains."""
