"""What a search does about models that are not like others."""
