"""What a person looks at afterwards: timeline, page, picture, table."""
