"""Tables of texts to judged rows: types, parents, expressions, rules, values, identity."""
