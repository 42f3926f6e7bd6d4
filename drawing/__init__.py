"""What the scripts that draw with a trained generator share: options, what these name, pictures, files."""
