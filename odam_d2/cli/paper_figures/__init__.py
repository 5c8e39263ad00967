"""The paper's figures that ``odam figures`` makes, a module each."""
