"""All that knows pictures: files, arrays, tiles, archives."""
