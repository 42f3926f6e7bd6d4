"""What the scripts that make pictures with a trained generator share: options, what these name,
pictures, files."""
