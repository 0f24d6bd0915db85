"""What a search does about models and labels that are not like others."""
