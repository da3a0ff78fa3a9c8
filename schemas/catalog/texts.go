package catalog

type text struct{ name, title, description, sample string }

var texts = []text{}
