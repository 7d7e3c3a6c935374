"""Operations of recurrences, of the loss and of the search on a CPU, in C, compiled where they are first used."""
