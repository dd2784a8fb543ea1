import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';
import { Log } from '../../components/log';
import type { ITrial } from '../../tokens';
import { nameOf } from '../../words';
import type { TrialModel } from './model';

interface IProps {
  readonly model: TrialModel;
  readonly trans: TranslationBundle;
}

export function TrialBody({ model, trans }: IProps): React.ReactElement {
  const { trial } = model;
  return (
    <div className="jp-VSandbox-trialHead">
      <h2>
        <code>{model.command}</code>
      </h2>
      <p className="jp-VSandbox-facts">
        {trans.__(
          'In a fork of %1, which is not disturbed.',
          nameOf(model.sandbox)
        )}
      </p>
      <Status model={model} trans={trans} />
      {model.reason ? (
        <p className="jp-VSandbox-warning" role="alert">
          {model.reason}
        </p>
      ) : null}
      <details open={trial === null || trial.exit_code !== 0}>
        <summary>{trans.__('What the command printed')}</summary>
        <Log label={trans.__('What the command printed')} lines={model.log} />
      </details>
    </div>
  );
}

function Status({ model, trans }: IProps): React.ReactElement {
  const { state, operation, trial } = model;
  switch (state) {
    case 'running':
      return (
        <div className="jp-VSandbox-waiting" role="status">
          <progress
            aria-label={trans.__('Trying the upgrade')}
            max={1}
            value={operation?.progress?.fraction ?? undefined}
          />
          <span>{operation?.progress?.message || '…'}</span>
          {operation?.cancellable ? (
            <button
              type="button"
              className="jp-VSandbox-button"
              onClick={() => void model.cancel()}
            >
              {trans.__('Cancel')}
            </button>
          ) : null}
        </div>
      );
    case 'cancelled':
      return <p role="status">{trans.__('Cancelled; the fork is gone.')}</p>;
    case 'failed':
      return <p role="status">{trans.__('The trial failed.')}</p>;
    case 'kept':
      return (
        <p role="status">
          {trans.__(
            'Kept: the notebook goes on in the upgraded machine. What it left is in the history.'
          )}
        </p>
      );
    case 'discarded':
      return (
        <p role="status">
          {trans.__('Discarded: nothing is left of the trial.')}
        </p>
      );
    case 'keeping':
    case 'discarding':
    case 'done':
      return (
        <>
          <p role="status">{trial ? verdict(trial, trans) : ''}</p>
          <div className="jp-VSandbox-buttons">
            <button
              type="button"
              className="jp-VSandbox-button jp-mod-primary"
              disabled={state !== 'done'}
              onClick={() => void model.keep()}
            >
              {state === 'keeping' ? '…' : trans.__('Keep')}
            </button>
            <button
              type="button"
              className="jp-VSandbox-button"
              disabled={state !== 'done'}
              onClick={() => void model.discard()}
            >
              {state === 'discarding' ? '…' : trans.__('Discard')}
            </button>
          </div>
        </>
      );
  }
}

function verdict(trial: ITrial, trans: TranslationBundle): string {
  if (trial.exit_code !== 0) {
    return trans.__(
      'The command failed with exit code %1; the notebook was not run again.',
      trial.exit_code
    );
  }
  const changed =
    trial.cells.length === 0
      ? trans.__('The notebook runs, and no output changed.')
      : trans._n(
          'The notebook ran again; the output of %1 cell changed.',
          'The notebook ran again; the outputs of %1 cells changed.',
          trial.cells.length
        );
  return trial.failed === null
    ? changed
    : `${changed} ${trans.__('Cell %1 raised an error.', trial.failed)}`;
}
