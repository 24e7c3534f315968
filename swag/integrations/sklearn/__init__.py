"""SWAG and MultiSWAG as scikit-learn estimators: `fit`, `predict_proba`, `predict(X, return_std=True)`, ….

    from swag.integrations.sklearn import SWAGClassifier

    model = make_pipeline(OneHotEncoder(), SWAGClassifier(epochs=50, random_state=0)).fit(X, y)
    model.predict_proba(X_new)

They are ordinary estimators: pipelines, grid searches, calibration, cloning, pickle and skops work, and
`check_estimator` passes. scikit-learn needs no extra.
"""

from swag.integrations.sklearn.classifier import MultiSWAGClassifier, SWAGClassifier
from swag.integrations.sklearn.regressor import MultiSWAGRegressor, SWAGRegressor

__all__ = ["MultiSWAGClassifier", "MultiSWAGRegressor", "SWAGClassifier", "SWAGRegressor"]
